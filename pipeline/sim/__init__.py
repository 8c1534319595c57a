"""A simulated survey with known truth: sky, camera, raw frames."""
