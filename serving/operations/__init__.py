"""Operating the platform on Kubernetes: what its objects say, and what to do about it. Pure."""
