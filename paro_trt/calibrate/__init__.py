"""Offline calibration: token orders, block masks and quantization learned from a model's runs."""
