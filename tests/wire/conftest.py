import pytest

from wire_drivers import DRIVERS


@pytest.fixture(params=DRIVERS, ids=lambda driver: driver.name)
def driver(request):
    driver = request.param()
    yield driver
    driver.close()
