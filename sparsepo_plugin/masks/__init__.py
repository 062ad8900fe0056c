"""One file per mask source: modules from the reference's state to weights per response token."""
