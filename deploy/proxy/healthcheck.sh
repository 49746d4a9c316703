#!/bin/bash
# Whether nginx answers at all, model server or not: a request to the port that is not published.
set -eu
listen=${METRICS_LISTEN:-9145}
host=127.0.0.1
if [[ $listen == *:* ]]; then host=$(tr -d '[]' <<< "${listen%:*}"); fi
exec 3<> "/dev/tcp/$host/${listen##*:}"
printf 'GET / HTTP/1.0\r\n\r\n' >&3
read -r line <&3
[[ $line == *404* ]]
