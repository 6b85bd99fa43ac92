"""A registry whose entries are named as in YAML."""

from fvcore.common.registry import Registry

from .errors import ConfigError

__all__ = ["NamedRegistry"]


class NamedRegistry(Registry):
    """:class:`fvcore.common.registry.Registry` with an explicit name for each entry.

    .. code-block:: python

        @MATCHER_REGISTRY.register("hungarian")
        class HungarianMatcher: ...
    """

    def register(self, name):
        """
        Args:
            name (str): name of the decorated object in the registry.

        Returns:
            callable: a decorator that registers its argument and returns it unchanged.
        """

        def decorate(obj):
            self._do_register(name, obj)
            return obj

        return decorate

    def get(self, name):
        """
        Raises:
            ConfigError: no entry of that name; the message lists the existing ones.
        """
        if name not in self:
            known = ", ".join(sorted(key for key, _ in self))
            raise ConfigError(f"No '{name}' in the {self._name} registry; it has: {known}.")
        return super().get(name)
