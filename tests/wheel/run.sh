#!/usr/bin/env bash
# Test the installed wheel from a folder that holds nothing of the source tree.
# Usage: tests/wheel/run.sh VENV_WITH_WHEEL VENV_WITH_DEPENDENCIES
set -euo pipefail
python=$(cd "$1" && pwd)/bin/python
packages=$("$2/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
cd "$here"
# Dependencies come after the wheel's own site-packages; the editable install's finder is not active there.
echo "$packages" > "$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/dependencies.pth"
location=$("$python" -c 'import sparsepo_plugin; print(sparsepo_plugin.__file__)')
case "$location" in
  */build/wheel/venv/*) ;;
  *) echo "error: imported $location, expected the installed wheel"; exit 1 ;;
esac
"$(dirname "$python")/sparsepo" --version
"$(dirname "$python")/sparsepo" ls | grep -q -- "--sparsepo.masks"
"$(dirname "$python")/eval-harness" ls > /dev/null
"$(dirname "$python")/eval-harness" validate --gates quick > /dev/null
"$python" -c "from eval_harness.reports.html import _TEMPLATE; assert _TEMPLATE.is_file(), _TEMPLATE"
status=0
"$(dirname "$python")/sparsepo" validate --loss sparspo 2> error.txt || status=$?
test "$status" = 2
grep -q "did you mean sparsepo" error.txt
echo "wheel: 6 passed, 0 failed"
