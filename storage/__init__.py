"""Where bytes live: plain paths, S3 and HTTP behind one small protocol."""

from storage.streams import Entry as Entry
from storage.verbs import delete as delete
from storage.verbs import exists as exists
from storage.verbs import get as get
from storage.verbs import get_versioned as get_versioned
from storage.verbs import list_entries as list_entries
from storage.verbs import open_from as open_from
from storage.verbs import open_read as open_read
from storage.verbs import open_write as open_write
from storage.verbs import put as put
