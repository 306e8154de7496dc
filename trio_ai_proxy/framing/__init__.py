"""Where a frame ends: chunk → frame, for each way the wire delimits."""
