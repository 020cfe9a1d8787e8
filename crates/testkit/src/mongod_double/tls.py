"""TLS as mongod has it: of its own connections, of those to other members, and whom a client's certificate names."""

import socket
import ssl

from wire import Closed

MODES = ["disabled", "allowTLS", "preferTLS", "requireTLS"]
SHORT = {"commonName": "CN", "organizationName": "O", "organizationalUnitName": "OU", "countryName": "C"}


class Tls:
    def __init__(self, mode, certificate, authority, weak):
        if mode not in MODES:
            raise ValueError(f"unsupported value for tlsMode {mode}")
        if mode != "disabled" and not certificate:
            raise ValueError("need tlsCertificateKeyFile or certificateSelector when TLS is enabled")
        self.mode, self.wants_certificate = mode, bool(authority) and not weak
        # What it calls other members with; none: in the clear.
        self.client = None
        if mode == "disabled":
            return
        self.server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.server.load_cert_chain(certificate)
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        client.load_cert_chain(certificate)
        if authority:
            self.server.load_verify_locations(authority)
            # As mongod: who shows none is sent away after the handshake.
            self.server.verify_mode = ssl.CERT_OPTIONAL
            client.load_verify_locations(authority)
        else:
            client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
        if mode != "allowTLS":
            self.client = client

    def accept(self, connection):
        """The connection to go on with, and the subject of the certificate that was shown on it."""
        begin = connection.recv(3, socket.MSG_PEEK | socket.MSG_WAITALL)
        if len(begin) < 3 or begin[:2] != b"\x16\x03" or begin[2] == 0:
            if self.mode == "requireTLS":
                raise Closed("The server is configured to only allow SSL connections")
            return connection, None
        if self.mode == "disabled":
            raise Closed("SSL handshake received but server is started without SSL support")
        secured = self.server.wrap_socket(connection, server_side=True)
        shown = secured.getpeercert()
        if self.wants_certificate and not shown:
            secured.close()
            raise Closed("no SSL certificate provided by peer; connection rejected")
        return secured, subject(shown) if shown else None


def subject(shown):
    """As RFC 2253 writes it: the last part first."""
    parts = [(SHORT.get(name, name), value) for group in shown["subject"] for name, value in group]
    return ",".join(f"{name}={value}" for name, value in reversed(parts))
