"""From YAML to a typed configuration: what every key may hold, which values go together, how it is composed."""
