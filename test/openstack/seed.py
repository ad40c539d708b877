"""Users, projects and endpoints of a test cloud; or, with nova, a flavor, and the wait
for the hypervisor."""
import json
import os
import sys
import time
import urllib.error
import urllib.request

KEYSTONE, PASSWORD, REGION = os.environ['KEYSTONE'], os.environ['PASSWORD'], os.environ['REGION']
DOMAIN = {'id': 'default'}
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def call(method, url, body=None, token=None):
    url = url if url.startswith('http') else KEYSTONE + url
    request = urllib.request.Request(url, method=method, data=None if body is None else json.dumps(body).encode(),
                                     headers={'Content-Type': 'application/json'})
    if token:
        request.add_header('X-Auth-Token', token)
    with OPENER.open(request, timeout=60) as answer:
        data = answer.read()
        return answer.headers, (json.loads(data) if data else None)


def login():
    user = {'name': 'admin', 'domain': DOMAIN, 'password': PASSWORD}
    scope = {'project': {'name': 'admin', 'domain': DOMAIN}}
    body = {'auth': {'identity': {'methods': ['password'], 'password': {'user': user}}, 'scope': scope}}
    return call('POST', '/auth/tokens', body)[0]['X-Subject-Token']


TOKEN = login()


def ensure(collection, key, query, body):
    """The id of the one that the query finds, or of a new one."""
    found = call('GET', '/%s?%s' % (collection, query), token=TOKEN)[1][collection]
    return found[0]['id'] if found else call('POST', '/' + collection, {key: body}, TOKEN)[1][key]['id']


def services(specs):
    roles = {r['name']: r['id'] for r in call('GET', '/roles', token=TOKEN)[1]['roles']}
    for name, project, role in (('glance', 'service', 'admin'), ('nova', 'service', 'admin'),
                                ('placement', 'service', 'admin'), ('a', 'a', 'member'), ('b', 'b', 'member')):
        p = ensure('projects', 'project', 'name=' + project, {'name': project, 'domain_id': 'default'})
        u = ensure('users', 'user', 'name=' + name, {'name': name, 'domain_id': 'default', 'password': PASSWORD})
        call('PUT', '/projects/%s/users/%s/roles/%s' % (p, u, roles[role]), token=TOKEN)
    for spec in specs:
        kind, name, url = spec.split('=', 2)
        s = ensure('services', 'service', 'type=' + kind, {'type': kind, 'name': name})
        for interface in ('public', 'internal', 'admin'):
            ensure('endpoints', 'endpoint', 'service_id=%s&interface=%s' % (s, interface),
                   {'service_id': s, 'interface': interface, 'region_id': REGION, 'url': url})


def nova(url, patience):
    flavor = {'id': '42', 'name': 'm1.nano', 'ram': 128, 'vcpus': 1, 'disk': 1}
    try:
        call('POST', url + '/flavors', {'flavor': flavor}, TOKEN)
    except urllib.error.HTTPError as e:
        if e.code != 409:
            raise
    end = time.time() + float(patience)
    while not any(h['state'] == 'up' for h in call('GET', url + '/os-hypervisors/detail', token=TOKEN)[1]['hypervisors']):
        if time.time() > end:
            sys.exit('no hypervisor is up')
        time.sleep(0.5)


if sys.argv[1] == 'nova':
    nova(*sys.argv[2:])
else:
    services(sys.argv[2:])
