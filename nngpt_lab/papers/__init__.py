"""One room a paper."""

import warnings

# joblib replaces a worker whose memory has grown, and the jobs go on in the new one: no reader's concern in a notebook
warnings.filterwarnings("ignore", message="A worker stopped while some jobs were given")
