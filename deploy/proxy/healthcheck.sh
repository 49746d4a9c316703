#!/bin/bash
# Whether nginx answers at all, model server or not: a request to the port that is not published.
set -eu
port=${METRICS_LISTEN:-9145}
exec 3<> "/dev/tcp/127.0.0.1/${port##*:}"
printf 'GET / HTTP/1.0\r\n\r\n' >&3
read -r line <&3
[[ $line == *404* ]]
