"""What is computed from a corpus before training: lexica, clusters, taggers."""
