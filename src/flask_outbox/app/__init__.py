"""The Flask face."""
