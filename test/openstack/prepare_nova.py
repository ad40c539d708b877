"""Four steps of nova-manage (api_db sync, map_cell0, db sync, create_cell) in one process."""
import os
import sys

os.environ['OS_NOVA_DISABLE_EVENTLET_PATCHING'] = '1'
conf, cell0 = sys.argv[1:]
from nova import config, objects  # noqa: E402
from nova.cmd import manage  # noqa: E402

config.parse_args(['nova-manage', '--config-file', conf])
objects.register_all()
for status in (manage.ApiDbCommands().sync(), manage.CellV2Commands().map_cell0(database_connection=cell0),
               manage.DbCommands().sync(), manage.CellV2Commands().create_cell(name='cell1')):
    if status:
        sys.exit('a step failed: %r' % status)
