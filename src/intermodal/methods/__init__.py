"""The methods: one file each, in one folder per field."""
