"""nova-conductor, -scheduler, -compute and -api in one process, so that the message bus of
oslo.messaging that lives in memory (fake://) will do, without RabbitMQ; and a neutron that has
no network, port or agent."""
import nova.monkey_patch  # noqa: F401, must be the first import
import json
import os
import re
import sys

import eventlet
import eventlet.wsgi
import os_brick.privileged
import os_vif
from oslo_log import log as logging
from oslo_service import service as oslo_service

from nova import config, context, exception, objects, service
from nova.compute import rpcapi as compute_rpcapi
from nova.conductor import rpcapi as conductor_rpcapi
import nova.conf
from nova.objects import host_mapping
import nova.privsep
from nova.scheduler import rpcapi as scheduler_rpcapi

CONF = nova.conf.CONF
LOG = logging.getLogger('allinone')


def null_neutron(env, start):
    path = env['PATH_INFO'].rstrip('/')
    m = re.match(r'^/v2\.0/([a-z-]+)$', path)
    code, body = '200 OK', {}
    if not path:
        body = {'versions': [{'id': 'v2.0', 'status': 'CURRENT', 'links': []}]}
    elif m and env['REQUEST_METHOD'] == 'GET':
        body = {m.group(1).replace('-', '_'): []}
    else:
        code, body = '404 Not Found', {'NeutronError': {'type': 'NotFound', 'message': path, 'detail': ''}}
    LOG.info('null neutron: %s %s?%s: %s', env['REQUEST_METHOD'], path, env.get('QUERY_STRING'), code)
    out = json.dumps(body).encode()
    start(code, [('Content-Type', 'application/json'), ('Content-Length', str(len(out)))])
    return [out]


def discover():
    """nova-manage cell_v2 discover_hosts: without it no host can be scheduled to."""
    ctx = context.get_admin_context()
    while True:
        try:
            host_mapping.HostMapping.get_by_host(ctx, CONF.host)
            return LOG.info('compute host mapped')
        except exception.HostMappingNotFound:
            host_mapping.discover_hosts(ctx)
        eventlet.sleep(0.5)


def main():
    config.parse_args(sys.argv)
    logging.setup(CONF, 'nova')
    objects.register_all()
    os_vif.initialize()
    # already root: run privileged functions here, without sudo, rootwrap and privsep daemons
    nova.privsep.sys_admin_pctxt.set_client_mode(False)
    os_brick.privileged.default.set_client_mode(False)
    objects.Service.enable_min_version_cache()
    eventlet.spawn(eventlet.wsgi.server, eventlet.listen(('127.0.0.1', int(os.environ['NEUTRON_PORT']))),
                   null_neutron, log=open(os.devnull, 'w'))
    launcher = oslo_service.ServiceLauncher(CONF, restart_method='mutate')
    for binary, rpcapi in (('nova-conductor', conductor_rpcapi), ('nova-scheduler', scheduler_rpcapi),
                           ('nova-compute', compute_rpcapi)):
        launcher.launch_service(service.Service.create(binary=binary, topic=rpcapi.RPC_TOPIC))
    launcher.launch_service(service.WSGIService('osapi_compute', use_ssl=False))
    eventlet.spawn(discover)
    launcher.wait()


main()
