"""Compare the images before and after training, with intervals, and say honestly whether it helped."""
