#!/bin/sh
# Makes a stand-in for the Dockerfile's base image where no registry can be reached: a minimal Debian with its own python3,
# stored under the name that the Dockerfile asks for, so that the same Dockerfile builds from either. What differs: python3 is
# Debian's /usr/bin/python3, not /usr/local/bin/python3.
#
#   base.sh [IMAGE]      default: docker.io/library/python:3.13-slim-trixie
#
# Needs root, mmdebstrap and buildah. Settings: BUILDAH (the command, with options), SOURCE_DATE_EPOCH.
set -eu
image=${1:-docker.io/library/python:3.13-slim-trixie}
suite=${image##*-}
BUILDAH=${BUILDAH:-buildah}
export SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH:-1700000000}"

if $BUILDAH inspect --type image "$image" >/dev/null 2>&1; then
    exit 0
fi

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
# The path-excludes are those of the official slim images. mmdebstrap copies the host's resolv.conf and hostname into the
# tree: the hook takes them out again.
# $1 in the hook is mmdebstrap's.
# shellcheck disable=SC2016
mmdebstrap --mode=root --variant=apt --quiet \
    --include=python3,python3-venv,ca-certificates \
    --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-include=/usr/share/doc/*/copyright' \
    --aptopt='APT::Install-Recommends "false"' \
    --customize-hook='rm -f "$1/etc/resolv.conf" "$1/etc/hostname"' \
    "$suite" "$dir/rootfs.tar"
cat > "$dir/Dockerfile" <<END
FROM scratch
ADD rootfs.tar /
ENV LANG=C.UTF-8
CMD ["python3"]
END
$BUILDAH bud --quiet --isolation chroot --timestamp "$SOURCE_DATE_EPOCH" \
    --tag "$image" "$dir"
