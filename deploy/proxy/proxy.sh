#!/bin/sh
# Start the proxy (no argument), or let a running one read its keys and certificate again
# (reload), which it does by itself within RELOAD_S of a change. What it does not find it makes on the first start and keeps in STATE:
#
#   SECRETS/api_keys  a line a key: NAME KEY, or NAME sha256:HEX; # begins a comment
#   SECRETS/tls.crt, SECRETS/tls.key  the certificate chain and its key, PEM
#
# Without the first a key is made and printed once, without the second a self-signed certificate.
#
# SETTINGS is TorchServe's config.properties: its limits of requests and replies are the proxy's.
#
# SERVERS, MANAGEMENT_SERVERS and METRICS_SERVERS, host:port of each of several TorchServes, take
# the place of INFERENCE, MANAGEMENT and METRICS: docs/operations/faults.md says what happens when
# one of them goes.
set -eu
umask 077

: "${SECRETS:=/run/dcgan-secrets}" "${STATE:=/var/lib/dcgan-proxy}" "${RUN:=/tmp/dcgan-proxy}"
: "${LISTEN:=8443}" "${METRICS_LISTEN:=9145}"
: "${INFERENCE:=http://torchserve:8080}" "${MANAGEMENT:=http://torchserve:8081}"
: "${METRICS:=http://torchserve:8082}"
: "${SERVERS:=}" "${MANAGEMENT_SERVERS:=}" "${METRICS_SERVERS:=}"
: "${RATE:=20r/s}" "${BURST:=40}" "${CONNECTIONS:=16}" "${ALL_CONNECTIONS:=64}" "${CACHE_MB:=256}"
: "${RELOAD_S:=30}" "${TLS_NAMES:=DNS:localhost,IP:127.0.0.1,DNS:proxy}"
: "${ACCESS_LOG:=/dev/stdout}" "${ERROR_LEVEL:=crit}"
: "${RESOLV_CONF:=/etc/resolv.conf}" "${RESOLVER:=}"
HERE=$(dirname "$(readlink -f "$0")")
: "${SETTINGS:=$HERE/../../config.properties}" "${GALLERY:=$HERE/../gallery}" "${CORS_ORIGINS:=none}"

say() { printf '%s\n' "$*" >&2; }
fail() { say "error: $*"; exit 2; }
digest() { printf '%s' "$1" | openssl dgst -sha256 -r | cut -d ' ' -f 1; }

# NAME KEY lines on stdin -> lines of an nginx map on stdout, digests instead of keys.
table_of_keys() {
    number=0 names=' ' digests=' '
    while read -r name key rest || [ -n "$name" ]; do
        number=$((number + 1))
        case $name in '' | '#'*) continue ;; esac
        at="$file, line $number"
        case $name in *[!A-Za-z0-9._-]*) fail "$at: a name has letters, digits, '.', '_' and '-' only" ;; esac
        [ ${#name} -le 64 ] || fail "$at: the name has ${#name} characters; at most 64 are allowed"
        [ -n "$key" ] || fail "$at: no key after the name $name; write: NAME KEY"
        case $rest in '' | '#'*) ;; *) fail "$at: something follows the key of $name" ;; esac
        case $key in
            sha256:*)
                hex=${key#sha256:}
                case $hex in *[!0-9a-f]*) hex='' ;; esac
                [ ${#hex} -eq 64 ] || fail "$at: sha256: of $name takes 64 digits 0-9a-f" ;;
            *)
                [ ${#key} -ge 24 ] || fail "$at: the key of $name has ${#key} characters; at least 24 are needed: openssl rand -hex 32"
                case $key in *[!A-Za-z0-9._~+/=-]*) fail "$at: the key of $name has characters other than A-Za-z0-9._~+/=-" ;; esac
                hex=$(digest "$key") ;;
        esac
        case $names in *" $name "*) fail "$at: the name $name is there twice" ;; esac
        case $digests in *" $hex "*) fail "$at: the key of $name is there twice" ;; esac
        names="$names$name " digests="$digests$hex "
        printf '"%s" "%s";\n' "$hex" "$name"
    done
    [ "$names" != ' ' ] || fail "$file: there is no key in it; write a line: NAME KEY"
}

# There, or a link to what is not there. What lies in a folder that may not be entered seems to be
# absent too: see enter.
present() { [ -e "$1" ] || [ -L "$1" ]; }

# Stop where a folder is there but shut, so that nothing in it is taken for absent.
enter() {
    folder=$1
    until present "$folder"; do folder=$(dirname "$folder"); done
    [ -d "$folder/" ] && [ -x "$folder/" ] && return
    fail "$folder cannot be entered by user $(id -u) of this container, or is no folder; run: chmod 0755 on it"
}

keys() {
    file=$SECRETS/api_keys
    if ! present "$file"; then
        file=$STATE/api_keys
        if [ ! -e "$file" ]; then
            key=$(openssl rand -hex 32)
            printf 'first sha256:%s\n' "$(digest "$key")" > "$file.new"
            mv "$file.new" "$file"
            say "no $SECRETS/api_keys: made one key, named first, which is shown this once:"
            say "    X-API-Key: $key"
        fi
    fi
    [ -r "$file" ] || fail "$file cannot be read by user $(id -u) of this container; run: chmod 0644 on it"
    table_of_keys < "$file" > "$RUN/keys.new"
    mv "$RUN/keys.new" "$RUN/keys.map"
}

certificate() {
    CERTIFICATE=$SECRETS/tls.crt CERTIFICATE_KEY=$SECRETS/tls.key
    if present "$CERTIFICATE" || present "$CERTIFICATE_KEY"; then
        for file in "$CERTIFICATE" "$CERTIFICATE_KEY"; do
            [ -r "$file" ] || fail "$file is missing, or cannot be read by user $(id -u) of this container"
        done
        [ "$(openssl x509 -in "$CERTIFICATE" -noout -pubkey)" = "$(openssl pkey -in "$CERTIFICATE_KEY" -pubout)" ] ||
            fail "$CERTIFICATE_KEY is not the key of $CERTIFICATE"
    else
        CERTIFICATE=$STATE/tls.crt CERTIFICATE_KEY=$STATE/tls.key
        # A certificate that ends within 30 days, or that is half written, is made again.
        if [ ! -e "$CERTIFICATE_KEY" ] || ! openssl x509 -in "$CERTIFICATE" -noout -checkend 2592000 > /dev/null 2>&1; then
            openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -days 365 \
                -subj /CN=dcgan -addext "subjectAltName=$TLS_NAMES" \
                -keyout "$CERTIFICATE_KEY" -out "$CERTIFICATE" 2> /dev/null ||
                fail "no certificate could be made for TLS_NAMES=$TLS_NAMES"
            say "no $SECRETS/tls.crt: made a self-signed certificate for $TLS_NAMES"
        fi
    fi
    if ! openssl x509 -in "$CERTIFICATE" -noout -checkend 0 > /dev/null; then
        [ "$action" = reload ] || fail "$CERTIFICATE has expired"
        say "warning: $CERTIFICATE has expired"  # new keys are taken all the same
    fi
    end=$(openssl x509 -in "$CERTIFICATE" -noout -enddate)
    date -d "${end#*=}" +%s > "$RUN/certificate_end.new"
    chmod 644 "$RUN/certificate_end.new"
    mv "$RUN/certificate_end.new" "$RUN/certificate_end"
}

# CORS_ORIGINS, origins, * or none -> a regular expression of the origins that may call.
origins() {
    set -f  # * is no pattern of files
    pattern=
    for origin in $CORS_ORIGINS; do
        case $origin in
            '*') pattern="$pattern|.+"; continue ;;
            http://*) name=${origin#http://} ;;
            https://*) name=${origin#https://} ;;
            *) name='' ;;
        esac
        case $name in
            '' | *[!a-z0-9.:-]*) fail "CORS_ORIGINS: $origin is no origin; write https://app.example, in lower case and without a path, or *, or none" ;;
        esac
        pattern="$pattern|$(printf '%s' "$origin" | sed 's/[.]/[.]/g')"
    done
    set +f
    printf '%s' "${pattern#|}"
}

# The first nameserver that nginx can ask (it takes no zone: fe80::1%eth0), or RESOLVER. IPv6 stands
# in brackets there.
resolver() {
    [ -n "$RESOLVER" ] || RESOLVER=$(sed -n 's/^nameserver[[:space:]]\{1,\}\([^[:space:]%]*\)\([[:space:]].*\)\{0,1\}$/\1/p' "$RESOLV_CONF" | head -n 1)
    [ -n "$RESOLVER" ] || fail "there is no nameserver in $RESOLV_CONF that nginx can ask; set RESOLVER to the address of one"
    case $RESOLVER in '['*) ;; *:*:*) RESOLVER="[$RESOLVER]" ;; esac
}

# ADDRESS OPTIONS -> listen lines. A bare port is that of every address, of IPv6 too where the
# machine has it.
listen() {
    case $1 in *[!0-9]*) printf 'listen %s%s;' "$1" "$2"; return ;; esac
    printf 'listen %s%s;' "$1" "$2"
    if [ $IPV6 = on ]; then printf ' listen [::]:%s%s;' "$1" "$2"; fi
}

# KEY -> the bytes that TorchServe's settings say, or else TorchServe takes.
bytes() {
    found=$(sed -n "s/^[[:space:]]*$1[[:space:]]*[=:][[:space:]]*//p" "$SETTINGS" 2> /dev/null | tail -n 1)
    case $found in *[!0-9]*) fail "$SETTINGS: $1 is $found; give a number of bytes" ;; esac
    printf '%s' "${found:-6553500}"
}

# What is open at once waits in RUN. A volume whose size is limited otherwise does not tell.
room() {
    needed=$(((REQUEST_BYTES + REPLY_BYTES) * ALL_CONNECTIONS + CACHE_MB * 1048576))
    free=$(df --output=avail -B1 "$RUN" | tail -n 1)
    [ "$free" -ge "$needed" ] && return
    fail "$RUN has $free bytes free; ALL_CONNECTIONS=$ALL_CONNECTIONS requests of $REQUEST_BYTES and replies of $REPLY_BYTES bytes, and a cache of CACHE_MB=$CACHE_MB, take $needed. Enlarge its volume, set fewer ALL_CONNECTIONS, a smaller CACHE_MB, or lower max_request_size and max_response_size in $SETTINGS"
}

# NAME ADDRESS... -> the upstream of that name. Two failures in 5 s, and it is left alone for 5 s.
upstream() {
    printf 'upstream %s {\n    zone %s 64k;\n' "$1" "$1"
    shift
    for server in "$@"; do
        case $server in *[!][A-Za-z0-9.:-]*) fail "$server is no host:port, or [IPv6]:port" ;; esac
        printf '    server %s max_fails=2 fail_timeout=5s;\n' "$server"
    done
    printf '}\n'
}

# URL... -> the lines of a map from a server's number to its URL. No number: the first one.
numbered() {
    printf 'default "";\n"" %s;\n' "$1"
    number=0
    for url in "$@"; do
        number=$((number + 1))
        printf '%s %s;\n' "$number" "$url"
    done
}

# What is asked of any server, and what is asked of each.
# shellcheck disable=SC2086  # lists of words
servers() {
    : > "$RUN/upstreams.conf"
    management=$MANAGEMENT metrics=$METRICS
    if [ -n "$SERVERS$MANAGEMENT_SERVERS$METRICS_SERVERS" ]; then
        count=$(printf '%s' "$SERVERS" | wc -w)
        for list in "$SERVERS" "$MANAGEMENT_SERVERS" "$METRICS_SERVERS"; do
            [ "$(printf '%s' "$list" | wc -w)" -eq "$count" ] && [ "$count" -gt 0 ] && continue
            fail "SERVERS, MANAGEMENT_SERVERS and METRICS_SERVERS have to name the same servers, in the same order; they are '$SERVERS', '$MANAGEMENT_SERVERS' and '$METRICS_SERVERS'"
        done
        upstream dcgan_servers $SERVERS >> "$RUN/upstreams.conf"
        upstream dcgan_management $MANAGEMENT_SERVERS >> "$RUN/upstreams.conf"
        INFERENCE=http://dcgan_servers MANAGEMENT=http://dcgan_management
        management=$(printf 'http://%s ' $MANAGEMENT_SERVERS)
        metrics=$(printf 'http://%s ' $METRICS_SERVERS)
    fi
    numbered $management > "$RUN/management.map"
    numbered $metrics > "$RUN/metrics.map"
    COUNT=$(printf '%s' "$management" | wc -w)
}

configuration() {
    servers
    resolver
    REQUEST_BYTES=$(bytes max_request_size)
    REPLY_BYTES=$(bytes max_response_size)
    [ "$action" = reload ] || room
    IPV6=off
    if grep -q . /proc/net/if_inet6 2> /dev/null; then IPV6=on; fi
    listen=$(listen "$LISTEN" ' ssl http2') metrics_listen=$(listen "$METRICS_LISTEN" '')
    for part in address.conf headers.conf no_body.conf passed.conf proxy.js workers.conf; do
        cp "$HERE/$part" "$RUN/$part"
    done
    rm -f "$RUN/cors.conf" "$RUN/gallery.conf"
    if [ "$CORS_ORIGINS" != none ]; then
        allowed=$(origins)
        sed -e "s#@ORIGINS@#$allowed#" "$HERE/cors.conf" > "$RUN/cors.conf"
    fi
    if [ -e "$GALLERY/index.html" ]; then
        sed -e "s|@GALLERY@|$(readlink -f "$GALLERY")|" "$HERE/gallery.conf" > "$RUN/gallery.conf"
    fi
    for part in nginx.conf key.conf problems.conf; do
        sed -e "s|@RUN@|$RUN|g" -e "s|@LISTEN@|$listen|g" -e "s|@METRICS_LISTEN@|$metrics_listen|g" \
            -e "s|@INFERENCE@|$INFERENCE|g" -e "s|@MANAGEMENT@|$MANAGEMENT|g" -e "s|@COUNT@|$COUNT|g" \
            -e "s|@RATE@|$RATE|g" -e "s|@BURST@|$BURST|g" -e "s|@CONNECTIONS@|$CONNECTIONS|g" \
            -e "s|@ALL_CONNECTIONS@|$ALL_CONNECTIONS|g" -e "s|@CACHE_MB@|$CACHE_MB|g" \
            -e "s|@REQUEST_BYTES@|$REQUEST_BYTES|g" -e "s|@REPLY_BYTES@|$REPLY_BYTES|g" \
            -e "s|@CERTIFICATE@|$CERTIFICATE|g" -e "s|@CERTIFICATE_KEY@|$CERTIFICATE_KEY|g" \
            -e "s|@RESOLVER@|$RESOLVER|g" -e "s|@IPV6@|$IPV6|g" -e "s|@ACCESS_LOG@|$ACCESS_LOG|g" -e "s|@ERROR_LEVEL@|$ERROR_LEVEL|g" \
            "$HERE/$part" > "$RUN/$part"
    done
}

# nginx's errors are plain text, and hold what a client sent: each line becomes JSON, in ASCII.
errors() {
    LC_ALL=C exec sed -u -e 's/[^ -~]/?/g' -e 's/[\\"]/\\&/g' -e 's/.*/{"level":"error","message":"&"}/' >&2
}

# What a reload is for, when it changes.
state() {
    cat "$SECRETS/api_keys" "$SECRETS/tls.crt" "$SECRETS/tls.key" 2>&1 | openssl dgst -sha256
    openssl x509 -in "$STATE/tls.crt" -noout -checkend 2592000 2>&1
}

# As long as nginx runs, which has the id of this shell: read again what has changed, and empty the
# counters that have become large.
watch() {
    seen=$(state || true)
    while ! timeout "$RELOAD_S" tail --pid=$$ -s 0.5 -f /dev/null; do
        now=$(state || true)
        if [ "$now" != "$seen" ]; then
            seen=$now
            if "$0" reload; then say 'the keys or the certificate have changed: read again'; fi
        fi
        find "$RUN/replies" -type f -size +2M -exec truncate -s 0 {} + || true
    done
}

action=${1:-start}
[ "$action" != reload ] || [ -e "$RUN/nginx.pid" ] || fail "no proxy runs with RUN=$RUN"
mkdir -p "$RUN/replies"
# Where root starts it, nginx works as another user.
chmod 711 "$RUN"
chmod 755 "$RUN/replies"
[ "$(id -u)" -ne 0 ] || chown nobody "$RUN/replies"
[ -w "$STATE" ] || fail "$STATE cannot be written by user $(id -u); mount a volume there"
enter "$SECRETS"
keys
certificate
configuration
nginx -q -t -c "$RUN/nginx.conf" || fail "nginx does not take its settings"
case $action in
    start)
        rm -f "$RUN/errors"
        mkfifo "$RUN/errors"
        errors < "$RUN/errors" &
        watch 2> "$RUN/errors" &
        exec nginx -c "$RUN/nginx.conf" -g 'daemon off;' 2> "$RUN/errors" ;;
    reload) nginx -c "$RUN/nginx.conf" -s reload ;;
    *) fail "there is no $1; use: proxy.sh, or proxy.sh reload" ;;
esac
