"""Pages and plots of what a training left."""
