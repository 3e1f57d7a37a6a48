"""Methods that say in words what a picture shows."""
