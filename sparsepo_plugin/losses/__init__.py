"""One file per objective, one decorator each; the registry imports, and so registers, every one of them."""
