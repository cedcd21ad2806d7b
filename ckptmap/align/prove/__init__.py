"""Is a rule true? Both whole models run on values of their own for every element, on several inputs."""
