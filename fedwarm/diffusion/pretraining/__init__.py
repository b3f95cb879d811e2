"""How the embedded foundation was made, and how one is made of public data."""
