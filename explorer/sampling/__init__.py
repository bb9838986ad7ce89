"""From noise to pictures: schedulers, the denoising loop, and generating a batch under a schedule or with widths."""
