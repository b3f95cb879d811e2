from fedwarm.checkout import share

share("strategies")  # the public name of the top-level package; a wheel has the real one here
