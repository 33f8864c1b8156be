"""Pictures for people: points drawn onto an image."""
