"""The entry that TorchServe calls; a copy of this file lies at the root of the archive.

TorchServe wants exactly one class in this module. It puts the caller's PYTHONPATH before the
archive on sys.path, so another package called ``handler`` could win: the archive's own folder
goes first here, before anything of ours is imported.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Any


class DcganHandler:
    """Passes batches to ``handler.service`` and its replies to TorchServe."""

    def initialize(self, context: Any) -> None:
        """Load the model on the worker's device. Raises RuntimeError, which TorchServe logs."""
        properties = context.system_properties
        sys.path.insert(0, str(properties["model_dir"]))
        from handler import service, telemetry

        # As decode_input_request=false, whatever the server's settings say: TorchServe looks here
        # for every request. Its own decoder takes the last of a field that comes twice, knows
        # application/json only, and logs a trace for each body that is not JSON.
        os.environ["TS_DECODE_INPUT_REQUEST"] = "false"
        telemetry.configure_log()
        self.service = service.open_service(
            Path(properties["model_dir"]),
            context.model_yaml_config,
            properties.get("gpu_id"),
            context.model_name,
            int(properties.get("batch_size") or 1),
        )

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[bytes]:
        """One body a request; its status, content type and headers go into the context."""
        from handler.wire import Headers

        headers = [Headers(context.get_all_request_header(i)) for i in range(len(data))]
        ids = [context.get_request_id(i) for i in range(len(data))]
        replies = self.service.handle(data, headers, ids)
        for i, reply in enumerate(replies):
            context.set_response_status(reply.status, reply.phrase, i)
            context.set_response_content_type(i, reply.content_type)
            for name, value in (reply.headers | headers[i].end_of_stream()).items():
                context.set_response_header(i, name, value)
        # The replies still leave. Then TorchServe's loop finds no more to read, takes the front end
        # for gone and ends the process, and the front end starts another.
        self.service.if_lost(lambda: context.cl_socket.shutdown(socket.SHUT_RD))
        return [reply.body for reply in replies]
