"""A run's config, typed and checked: its sections, its YAML file, which keys define the result."""
