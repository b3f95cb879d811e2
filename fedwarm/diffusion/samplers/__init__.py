"""Samplers: the way from noise to an image, each a function that makes a diffusers scheduler out of a foundation's own.

The function gets the pipeline's scheduler, whose configuration holds the foundation's noise schedule and the kind of its
prediction, and returns a fresh scheduler of diffusers' interface (`set_timesteps`, `scale_model_input`, `step`,
`init_noise_sigma`) over the same schedule. One whose `step` takes a `generator` gets one for each image, so that images do not
depend on what is drawn with them. One that can follow straight paths, too, as of families whose `flow` is true, says `flows`.
"""
