"""A user's own checkpoint, compared with the reference tensor by tensor."""
