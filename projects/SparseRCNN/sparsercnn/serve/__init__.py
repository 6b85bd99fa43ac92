"""The web page and the REST call: models on images that somebody sends, who is not trusted."""

from ..extras import require_extra

__all__ = []

require_extra("web", "gradio", "fastapi", "uvicorn")
require_extra("headless", "cv2")
