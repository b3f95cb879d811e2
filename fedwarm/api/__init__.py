"""The Python interface: run a method, open a finished run. Errors are exceptions whose message is one line.

```python
import fedwarm

result = fedwarm.run("fedavg", {"local-epochs": 1}, rounds=3, out="runs/first")
print(result.accuracy, result.history[-1])
same = fedwarm.load("runs/first")
```

A run from Python is the run of the command line: the same checks, engines, records and numbers.
"""

from fedwarm.api.result import Result
from fedwarm.api.running import load, run
from fedwarm.core.failures import RunError
from fedwarm.settings.fields import SettingError

__all__ = ["Result", "RunError", "SettingError", "load", "run"]
