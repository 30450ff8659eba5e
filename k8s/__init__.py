"""What stands beside the platform on a cluster. Forbidden here: anything a served request needs."""
