"""What runs an app: this process and its workers, Ray, or the machines of a federation."""
