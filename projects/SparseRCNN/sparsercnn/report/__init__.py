"""What a model does on a data set, and what a data set is like, as pages to look through."""

from ..extras import require_extra

require_extra("report", "pandas", "jinja2", "matplotlib")
