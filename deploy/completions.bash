# Completes the commands of Warren and their flags in bash: source it, or copy it into
# /etc/bash_completion.d. In zsh: autoload -U +X bashcompinit && bashcompinit, then source it.
# Written by `make settings`.

_broker_config() {
  local words
  case "${COMP_WORDS[1]}" in
    up) words="--client --encrypt-updates --federation --fleet --foreground --help --home --host --keeper --management-port --model-bytes --mutual-tls --no-encrypt-updates --no-tls --nodes --port --prometheus-port --replace-lost --server --tls" ;;
    down) words="--help --home" ;;
    install) words="--dir --force --help --home --print --user" ;;
    status) words="--help --home --json" ;;
    apply) words="--amqp-address --ca --client --client-certificates --encrypt-updates --federation --fleet --help --home --keeper --management-url --model-bytes --no-client-certificates --no-encrypt-updates --on --reset-passwords" ;;
    check) words="--amqp-address --ca --client --client-certificates --encrypt-updates --federation --fleet --help --home --json --keeper --management-url --model-bytes --no-client-certificates --no-encrypt-updates --on" ;;
    enrol) words="--amqp-address --ca --client --client-certificates --encrypt-updates --federation --fleet --help --home --keeper --management-url --model-bytes --no-client-certificates --no-encrypt-updates --on" ;;
    certs) words="--client --encrypt-updates --federation --fleet --help --home --host --keeper --model-bytes --mutual --no-encrypt-updates --renew" ;;
    revoke) words="--amqp-address --ca --client-certificates --help --home --management-url --no-client-certificates --on" ;;
    rotate) words="--amqp-address --ca --client-certificates --help --home --keys --management-url --no-client-certificates --on" ;;
    definitions) words="--client --encrypt-updates --federation --fleet --help --home --keeper --model-bytes --no-encrypt-updates --password-hashes" ;;
    *) words="--help --version" ;;
  esac
  [ "$COMP_CWORD" -gt 1 ] || words="up down install status apply check enrol certs revoke rotate definitions --help --version"
  COMPREPLY=($(compgen -W "$words" -- "${COMP_WORDS[COMP_CWORD]}"))
}
complete -o default -F _broker_config broker-config

_client_worker() {
  local words
  case "${COMP_WORDS[1]}" in
    evaluate) words="--env-file --help --model --settings --task" ;;
    export) words="--env-file --exchange --help --model --settings --task --to" ;;
    check) words="--broker-url --ca --client --encrypt-key --env-file --fleet --gpu --help --json --keeper-key --least-together --listen --log-format --log-level --metrics-address --metrics-port --no-otel-metrics --no-spare-mailboxes --no-stay --no-traces --no-train --otel-metrics --privacy-limit --proxy --ready-file --record-privacy --settings --spare-mailboxes --state-dir --stay --task --tls-certificate --token-file --traces --training-limit-s --verify-keys --virtual --wait-broker-s" ;;
    privacy) words="--env-file --help --json --privacy-limit --settings --state-dir" ;;
    install) words="--dir --force --help --print --settings --user" ;;
    *) words="--broker-url --ca --client --encrypt-key --env-file --fleet --gpu --help --help-all --keeper-key --least-together --listen --log-format --log-level --metrics-address --metrics-port --no-otel-metrics --no-spare-mailboxes --no-stay --no-traces --otel-metrics --privacy-limit --proxy --ready-file --record-privacy --settings --spare-mailboxes --state-dir --stay --task --tls-certificate --token-file --traces --training-limit-s --verify-keys --version --virtual --wait-broker-s" ;;
  esac
  [ "$COMP_CWORD" -gt 1 ] || words="evaluate export check privacy install --broker-url --ca --client --encrypt-key --env-file --fleet --gpu --help --help-all --keeper-key --least-together --listen --log-format --log-level --metrics-address --metrics-port --no-otel-metrics --no-spare-mailboxes --no-stay --no-traces --otel-metrics --privacy-limit --proxy --ready-file --record-privacy --settings --spare-mailboxes --state-dir --stay --task --tls-certificate --token-file --traces --training-limit-s --verify-keys --version --virtual --wait-broker-s"
  COMPREPLY=($(compgen -W "$words" -- "${COMP_WORDS[COMP_CWORD]}"))
}
complete -o default -F _client_worker client-worker

_coordinator_worker() {
  local words
  case "${COMP_WORDS[1]}" in
    demo) words="--help" ;;
    watch) words="--broker-url --ca --env-file --help --log-format --log-level --no-spare-mailboxes --once --proxy --ready-file --settings --spare-mailboxes --tls-certificate --token-file --wait-broker-s" ;;
    dashboard) words="--address --broker-url --ca --env-file --help --log-format --log-level --no-spare-mailboxes --port --proxy --ready-file --save --settings --spare-mailboxes --tls-certificate --token-file --wait-broker-s" ;;
    alarm) words="--after-s --broker-url --ca --env-file --help --log-format --log-level --no-spare-mailboxes --proxy --ready-file --run --settings --spare-mailboxes --tls-certificate --token-file --until-finished --url --wait-broker-s" ;;
    participation) words="--checkpoint-dir --env-file --help --json --no-json --settings" ;;
    privacy) words="--checkpoint-dir --env-file --help --json --no-json --settings" ;;
    rejected) words="--broker-url --ca --delete-all --env-file --help --json --limit --log-format --log-level --no-spare-mailboxes --proxy --ready-file --settings --spare-mailboxes --tls-certificate --token-file --wait-broker-s" ;;
    history) words="--checkpoint-dir --clients --csv --env-file --help --json --settings --tensorboard" ;;
    audit) words="--checkpoint-dir --env-file --help --json --no-json --rotate --run --settings --verify" ;;
    runs) words="--env-file --help --json --no-json --runs-dir --settings" ;;
    versions) words="--checkpoint-dir --env-file --help --json --no-json --settings" ;;
    diff) words="--checkpoint-dir --env-file --help --json --no-json --settings" ;;
    export) words="--checkpoint-dir --env-file --help --settings --task --to" ;;
    import) words="--broker-url --checkpoint-dir --env-file --help --settings --task" ;;
    rollback) words="--after --checkpoint-dir --env-file --help --settings" ;;
    card) words="--checkpoint-dir --env-file --help --library-name --license --names --settings --to" ;;
    check) words="--aggregator --audit-rotate-bytes --average --broker-url --ca --checkpoint-dir --client-curves --clients --clip-norm --config --deadline-s --downlink --env-file --evaluate --exchange --full-model-every --help --initial-model --json --keep-every --keep-versions --keeper-key --keeper-verify-key --learning-rate-schedule --listen --local-clip-norm --local-epochs --local-steps --log-format --log-level --max-evaluation-share --max-examples --max-model-bytes --max-staleness --max-update-norm --metrics-address --metrics-port --min-quorum --mlflow --monitor --no-client-curves --no-otel-metrics --no-scaffold --no-spare-mailboxes --no-traces --otel-metrics --parent --participation --patience --privacy --proximal --proxy --quorum --ready-file --rounds --scaffold --secure --server-optimizer --settings --spare-mailboxes --staleness-exponent --staleness-hinge --target --tensorboard --tls-certificate --token-file --traces --uplink --wait-broker-s --wandb" ;;
    install) words="--dir --force --help --print --settings --user" ;;
    *) words="--aggregator --audit-rotate-bytes --average --broker-url --ca --checkpoint-dir --client-curves --clients --clip-norm --config --deadline-s --downlink --env-file --evaluate --exchange --full-model-every --help --help-all --initial-model --keep-every --keep-versions --keeper-key --keeper-verify-key --learning-rate-schedule --listen --local-clip-norm --local-epochs --local-steps --log-format --log-level --max-evaluation-share --max-examples --max-model-bytes --max-staleness --max-update-norm --metrics-address --metrics-port --min-quorum --mlflow --monitor --no-client-curves --no-otel-metrics --no-scaffold --no-spare-mailboxes --no-traces --otel-metrics --parent --participation --patience --privacy --proximal --proxy --quorum --ready-file --rounds --scaffold --secure --server-optimizer --settings --spare-mailboxes --staleness-exponent --staleness-hinge --target --tensorboard --tls-certificate --token-file --traces --uplink --version --wait-broker-s --wandb" ;;
  esac
  [ "$COMP_CWORD" -gt 1 ] || words="demo watch dashboard alarm participation privacy rejected history audit runs versions diff export import rollback card check install --aggregator --audit-rotate-bytes --average --broker-url --ca --checkpoint-dir --client-curves --clients --clip-norm --config --deadline-s --downlink --env-file --evaluate --exchange --full-model-every --help --help-all --initial-model --keep-every --keep-versions --keeper-key --keeper-verify-key --learning-rate-schedule --listen --local-clip-norm --local-epochs --local-steps --log-format --log-level --max-evaluation-share --max-examples --max-model-bytes --max-staleness --max-update-norm --metrics-address --metrics-port --min-quorum --mlflow --monitor --no-client-curves --no-otel-metrics --no-scaffold --no-spare-mailboxes --no-traces --otel-metrics --parent --participation --patience --privacy --proximal --proxy --quorum --ready-file --rounds --scaffold --secure --server-optimizer --settings --spare-mailboxes --staleness-exponent --staleness-hinge --target --tensorboard --tls-certificate --token-file --traces --uplink --version --wait-broker-s --wandb"
  COMPREPLY=($(compgen -W "$words" -- "${COMP_WORDS[COMP_CWORD]}"))
}
complete -o default -F _coordinator_worker coordinator-worker

_keeper_worker() {
  local words
  case "${COMP_WORDS[1]}" in
    keys) words="--help --state-dir" ;;
    check) words="--broker-url --ca --clients --encrypt-key --env-file --help --json --keeper-key --least --log-format --log-level --max-model-bytes --metrics-address --metrics-port --no-otel-metrics --no-spare-mailboxes --otel-metrics --privacy --proxy --quorum --ready-file --rounds --settings --spare-mailboxes --state-dir --tls-certificate --token-file --verify-keys --wait-broker-s" ;;
    install) words="--dir --force --help --print --settings --user" ;;
    *) words="--broker-url --ca --clients --encrypt-key --env-file --help --help-all --keeper-key --least --log-format --log-level --max-model-bytes --metrics-address --metrics-port --no-otel-metrics --no-spare-mailboxes --otel-metrics --privacy --proxy --quorum --ready-file --rounds --settings --spare-mailboxes --state-dir --tls-certificate --token-file --verify-keys --version --wait-broker-s" ;;
  esac
  [ "$COMP_CWORD" -gt 1 ] || words="keys check install --broker-url --ca --clients --encrypt-key --env-file --help --help-all --keeper-key --least --log-format --log-level --max-model-bytes --metrics-address --metrics-port --no-otel-metrics --no-spare-mailboxes --otel-metrics --privacy --proxy --quorum --ready-file --rounds --settings --spare-mailboxes --state-dir --tls-certificate --token-file --verify-keys --version --wait-broker-s"
  COMPREPLY=($(compgen -W "$words" -- "${COMP_WORDS[COMP_CWORD]}"))
}
complete -o default -F _keeper_worker keeper-worker
