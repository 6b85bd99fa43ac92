"""Prediction on images and videos, drawing, and writing of results."""
