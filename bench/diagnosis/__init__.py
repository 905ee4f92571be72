"""Whether an attack on a detector is to be believed: more questions, on few images, than a run could pay for."""
