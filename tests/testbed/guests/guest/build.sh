#!/usr/bin/env bash
# Makes the guest of the RDMA tests: Debian's kernel with Soft-RoCE, an initrd, and a root disk that has Debian's torch
# and the project's dependencies (not the project: each run brings its own).
#
#   UV=… build.sh OUT REQUIREMENTS
#
# OUT gets vmlinux, initrd.gz and root.ext4. REQUIREMENTS: Python packages, one a line. Needs root, which chroot does;
# neither loop devices nor KVM.
set -euo pipefail
export PATH=$PATH:/usr/sbin:/sbin
out=$(realpath -m "$1") requirements=$(realpath "$2")
here=$(cd "$(dirname "$0")" && pwd)
suite=trixie python=3.13
packages=mount,kmod,iproute2,procps,xz-utils,zstd,python3,python3-torch
packages+=,libibverbs1,ibverbs-providers,ibverbs-utils,libnuma1,libcurl4
# What the initrd needs to reach the disk, and what the guest may load later. rdma_rxe asks for "crc32" at run time:
# without crc32_generic `rdma link add` says "No such file or directory".
early=(virtio_pci virtio_blk ext4)
late=(9p 9pnet_virtio virtio_net virtio_rng dummy sch_netem crc32_generic crc32_pclmul rdma_rxe rdma_ucm ib_uverbs)

step() { echo "[${SECONDS}s] $*"; }
mkdir -p "$out"
root=$out/root initrd=$out/initrd
trap 'rm -rf "$root" "$initrd"' EXIT

step "root file system"
mmdebstrap --quiet --mode=root --variant=essential --include="$packages" \
  --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
  --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/include/*' \
  --customize-hook='set -e; mkdir "$1/kernel"; cd "$1/kernel"; export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
    image=$(apt-cache depends linux-image-amd64 | sed -n "s/.*Depends: \(linux-image-[0-9].*\)/\1/p" | head -1)
    apt-get -o APT::Sandbox::User=root -qq download "$image"' \
  "$suite" "$root"

step "kernel"
dpkg-deb -x "$root"/kernel/*.deb "$root/kernel"
[ -e "$root/kernel/lib" ] || ln -s usr/lib "$root/kernel/lib"
release=$(ls "$root/kernel/lib/modules")
modules=lib/modules/$release
chroot "$root" depmod -b /kernel "$release"
needed() { # the files of modules and of those that they need, in the order to load them
  local module
  for module in "$@"; do
    chroot "$root" modprobe -d /kernel -S "$release" --show-depends "$module" | sed -n 's#^insmod /kernel/\([^ ]*\).*#\1#p'
  done | awk '!seen[$0]++'
}
# The uncompressed ELF: qemu starts it directly, without minutes of decompression on an emulated processor.
python3 - "$root/kernel/boot/vmlinuz-$release" >"$out/vmlinux.zst" <<'PY'
import sys
image = open(sys.argv[1], "rb").read()
sys.stdout.buffer.write(image[image.index(b"\x28\xb5\x2f\xfd"):])
PY
chroot "$root" zstd -dcq <"$out/vmlinux.zst" >"$out/vmlinux" 2>/dev/null || true # what follows the frame is no frame
rm "$out/vmlinux.zst"
[ "$(head -c 4 "$out/vmlinux" | tail -c 3)" = ELF ] || { echo "no kernel in vmlinuz-$release" >&2; exit 1; }
for file in $(needed "${early[@]}" "${late[@]}"); do
  install -D -m 644 "$root/kernel/$file" "$root/usr/${file#usr/}"
done
cp "$root/kernel/$modules"/modules.{order,builtin,builtin.modinfo} "$root/usr/$modules/"
chroot "$root" depmod "$release"

step "initrd"
mkdir -p "$initrd"/{bin,modules,proc,sys,dev,new}
cp "$(command -v busybox)" "$initrd/bin/busybox"
number=10
for file in $(needed "${early[@]}"); do
  chroot "$root" xz -dc "/kernel/$file" >"$initrd/modules/$number-$(basename "$file" .xz)"
  number=$((number + 1))
done
install -m 755 "$here/initrd-init" "$initrd/init"
(cd "$initrd" && find . | cpio -o -H newc --quiet | gzip -1) >"$out/initrd.gz"
rm -rf "$root/kernel"

step "Python packages"
# In front of Debian's own packages, and seen by every Python of the guest.
"$UV" pip install --quiet --only-binary :all: --link-mode copy --python-version "$python" \
  --python-platform x86_64-manylinux_2_28 --target "$root/usr/local/lib/python$python/dist-packages" \
  --override <(echo "torch; python_version < '3'") -r "$requirements"
chroot "$root" python3 -m compileall -qq "/usr/local/lib/python$python/dist-packages" || true # some hold Python 2

# The project, which each run brings.
echo /run/site >"$root/usr/local/lib/python$python/dist-packages/run-site.pth"

step "disk"
install -m 755 "$here/init" "$root/sbin/guest-init"
mkdir -p "$root/share"
rm -f "$root/etc/resolv.conf" "$root/etc/hostname" "$out/root.ext4"
mib=$(du -sm --apparent-size "$root" | cut -f1)
mke2fs -q -t ext4 -O ^has_journal -m 0 -E lazy_itable_init=1 -d "$root" "$out/root.ext4" "$((mib * 5 / 4 + 64))M"
step "done: kernel $release, root $mib MiB"
