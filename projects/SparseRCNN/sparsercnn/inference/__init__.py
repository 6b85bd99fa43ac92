"""Weights in, detections out: prediction, drawing, and what is written of it."""
