"""The typed configuration: composed from YAML, with the type, range and meaning of every key."""
