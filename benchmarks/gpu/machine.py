"""What the GPU check ran on, as a stage of its own: one JSON object, that of `edgewf doctor`."""

import json

from edgewf.doctor import examine

if __name__ == "__main__":
    print(json.dumps(examine()))
