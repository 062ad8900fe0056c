"""A page that shows what the masks did, token by token."""
