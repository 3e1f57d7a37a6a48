"""A model's capabilities over HTTP (needs the extra ``api``)."""
