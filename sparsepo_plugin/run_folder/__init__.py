"""What a training leaves in its output folder, each file's writer beside its reader."""
