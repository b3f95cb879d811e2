import clients, sys  # noqa: E401, I001

sys.modules[__name__] = clients  # the public name of the top-level package; a wheel has the real one here
