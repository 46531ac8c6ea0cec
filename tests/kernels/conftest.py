"""Checks that a kernel's test class inherits run on all of its back ends: the class names them in `backends`."""


def pytest_generate_tests(metafunc):
    if "backend" in metafunc.fixturenames and hasattr(metafunc.cls, "backends"):
        metafunc.parametrize("backend", metafunc.cls.backends)
