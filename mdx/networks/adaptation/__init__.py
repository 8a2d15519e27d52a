"""What is put on frozen weights, inside the scanned block."""
