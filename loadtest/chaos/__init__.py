"""What happens to streams when a part of the fleet fails: `make chaos`."""
