"""What holds for all tests."""

from hypothesis import settings

# A deadline measures the machine that the tests share, not the code. All else stays as hypothesis
# chose it, which repeats the same examples where the environment says that this is CI.
settings.register_profile("midstream", settings(deadline=None))
settings.load_profile("midstream")
